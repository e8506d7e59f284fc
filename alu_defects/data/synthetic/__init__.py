"""The embedded twin of the Tianchi data: generated photographs in the layout, names and sessions of the archives."""

from alu_defects.data.synthetic.writer import Options, ensure

__all__ = ["Options", "ensure"]
