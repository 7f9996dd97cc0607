"""Studies of the estimators: the problems that they are measured on."""
