"""What the training minimises beyond plain distances."""
