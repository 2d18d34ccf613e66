"""Generation components: how text is drawn from a trained model."""
