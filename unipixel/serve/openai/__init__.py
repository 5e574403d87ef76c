"""OpenAI's chat API, with images and videos in, and objects and masks out."""
