"""A model server (`xsam serve`) as a `Segmenter`, for any Python program: needs httpx2, no PyTorch.

::

    from xsam import Frame, Query
    from xsam.remote import RemoteSegmenter

    with RemoteSegmenter("http://127.0.0.1:8080") as segmenter:
        (result,) = segmenter.segment(Frame(rgb=rgb), [Query(text="the red mug")], deadline_s=10.0)
"""

from xsam.remote.fallback import RemoteEngine
from xsam.remote.link import LinkStatus
from xsam.remote.segmenter import RemoteSegmenter

__all__ = ["LinkStatus", "RemoteEngine", "RemoteSegmenter"]
