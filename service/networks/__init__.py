"""Networks in torch: timm's, torchvision's and textbook ones. Imports torch, so the CPU service loads it for Grad-CAM alone."""
