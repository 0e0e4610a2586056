"""Butterflies, or any other photos, with VGG16 of Keras 3 on torch."""
