"""The toy products, one file each."""

from anomaly.synthetic.product import Product
from anomaly.synthetic.products.blister_pack import BLISTER_PACK
from anomaly.synthetic.products.brushed_metal import BRUSHED_METAL
from anomaly.synthetic.products.circuit_board import CIRCUIT_BOARD
from anomaly.synthetic.products.glazed_tile import GLAZED_TILE
from anomaly.synthetic.products.hex_nut import HEX_NUT
from anomaly.synthetic.products.leather import LEATHER
from anomaly.synthetic.products.perforated_sheet import PERFORATED_SHEET
from anomaly.synthetic.products.wood_grain import WOOD_GRAIN
from anomaly.synthetic.products.woven_fabric import WOVEN_FABRIC

PRODUCTS: dict[str, Product] = {
    item.name: item
    for item in (
        BRUSHED_METAL,
        WOVEN_FABRIC,
        WOOD_GRAIN,
        LEATHER,
        GLAZED_TILE,
        PERFORATED_SHEET,
        HEX_NUT,
        BLISTER_PACK,
        CIRCUIT_BOARD,
    )
}
