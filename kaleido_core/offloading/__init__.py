"""Running a model that is larger than the memory of the device; it wraps the model from outside."""
