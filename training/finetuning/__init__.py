"""The Lightning half: module, data, callbacks, loss, augmentations. Imports torch and Lightning."""
