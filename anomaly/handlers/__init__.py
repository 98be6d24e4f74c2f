"""What a click does: paths and numbers in, reports of NumPy arrays out; no gradio, no inference of its own."""
