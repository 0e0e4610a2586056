"""Turkeys and chickens, or any other photos, by fine-tuning a pretrained net."""
