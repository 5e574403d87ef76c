"""The paper's ablations, each as one command: what is trained, how it is measured, and the table of it."""
