"""The adapters of backdraw: what each array framework lacks of the Array API standard, and its autodiff."""
