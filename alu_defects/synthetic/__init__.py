"""The embedded twin of the Tianchi data: generated images in the layout, names and sessions of the archives."""

from alu_defects.synthetic.writer import SyntheticOptions, ensure_written

__all__ = ["SyntheticOptions", "ensure_written"]
