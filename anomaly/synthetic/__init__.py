"""Procedurally drawn toy products: photos of good and defective parts with exact masks, from a seed alone."""

from anomaly.synthetic.dagm import TEXTURES, render_texture, write_dagm
from anomaly.synthetic.folders import write_examples, write_product
from anomaly.synthetic.product import Product
from anomaly.synthetic.products import PRODUCTS
from anomaly.synthetic.rendering import MAX_SIZE, MIN_SIZE, render_defect, render_good

__all__ = [
    "MAX_SIZE",
    "MIN_SIZE",
    "TEXTURES",
    "PRODUCTS",
    "Product",
    "render_defect",
    "render_good",
    "render_texture",
    "write_dagm",
    "write_examples",
    "write_product",
]
