"""The Gradio page: an adapter over the Results that `stream` yields."""
