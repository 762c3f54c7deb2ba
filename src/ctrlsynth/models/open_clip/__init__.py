"""CLIP models of open_clip: built, loaded and run in one place for the tagger, the judge, training and
evaluation."""
