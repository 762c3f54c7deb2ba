"""ctrlsynth: makes image-text data under the user's control, and shows whether it helps. `ctrlsynth.run(recipe) -> Run`."""

__version__ = "0.1.0"
