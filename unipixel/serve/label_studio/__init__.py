"""A machine learning backend for Label Studio: smart tools and pre-annotations from the server's own model.

Label Studio sends tasks and its labelling configuration, and gets regions: brush masks, polygons, boxes, and boxes
through videos. Nothing is kept between requests but the features of pictures that somebody is clicking on.
"""
