"""CIFAR-10 with timm's ResNet-18."""
