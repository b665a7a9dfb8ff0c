"""Foundation models that transformers itself does not have."""
