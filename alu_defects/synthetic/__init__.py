"""Generated images: the embedded twin of the Tianchi data, and surfaces to learn from before real ones."""

from alu_defects.synthetic.surface_set import SurfaceOptions, write_surfaces
from alu_defects.synthetic.writer import SyntheticOptions, ensure_written

__all__ = ["SurfaceOptions", "SyntheticOptions", "ensure_written", "write_surfaces"]
