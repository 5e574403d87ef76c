"""One module per family of datasets: its rows of the catalogue, and the two functions that read it."""
