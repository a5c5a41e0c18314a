"""The service behind `mmssl-fast serve`: recommendations and similar items of a trained model over HTTP."""
