"""The page of the service, on which one looks at what a model recommends: its data, and the files of static/."""
