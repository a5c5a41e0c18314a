"""What a trained model can do for users and items that it was not trained on: embeddings, lists and similar items."""
