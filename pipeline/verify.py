"""Why an image can't be used any more: a closer look at one that a batch could not be made of.

DALI's decoder threads can crash on a file that turns out to be no image, or a smaller one. So the
reader compares lengths, and the sizes in headers, with the list before a decoder sees a batch. Bits
that flip inside an image are not noticed.
"""

import os

from pipeline.dataset import ImageList
from pipeline.decode import decode, look
from pipeline.faults import the_files_own


def why_bad(images: ImageList, index: int) -> str:
    """Why image `index` is not what the list says; empty where nothing is found wrong.

    OSError where the machine is to blame, not the file; MachineError where the decoder fails.
    """
    try:
        expected = images.length(index)
        if images.spans is None:
            found = os.stat(images.path(index)).st_size
            if expected is not None and found != expected:
                return f"it has {found} bytes, and had {expected} when the lists were made"
        content = images.content(index)
        if expected is not None and len(content) < expected:
            archive, offset, _ = images.archive(index)
            return (
                f"{archive} ends at byte {offset + len(content)}; the image needs {expected} bytes "
                f"from byte {offset} on"
            )
        header = look(content)
        size = (header.height, header.width)
        if header.unlike:
            size = decode(content).shape[:2]
    except ValueError as error:
        return str(error)
    except OSError as error:
        if not the_files_own(error):
            raise
        return error.strerror or str(error)
    height, width = images.sizes[index].tolist()
    if size == (height, width):
        return ""
    return f"it is {size[1]}x{size[0]} pixels, and was {width}x{height} when the lists were made"
