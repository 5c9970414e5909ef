"""Why an image can't be used any more: a closer look at one that a batch could not be made of.

DALI's decoder threads can crash on a file that turns out to be no image, or a smaller one. So the
reader compares lengths, and the sizes in headers, with the list before a decoder sees a batch. Bits
that flip inside an image are not noticed.
"""

import os

from alexnet_dali.pipeline.decode import Undecodable, decode, decode_together, look
from alexnet_dali.pipeline.image_list import ImageList
from alexnet_dali.pipeline.system.faults import the_files_own


def why_bad(images: ImageList, index: int) -> str:
    """Why image `index` is not what the list says; empty where nothing is found wrong.

    OSError where the machine is to blame, not the file; ResourceError where the decoder fails.
    """
    try:
        wrong_length = _wrong_length(images, index)
        if wrong_length:
            return wrong_length
        content = images.content(index)
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


def undecodable(images: ImageList, index: int) -> str:
    """What the decoder says of an image that is as the list says; empty where it decodes it.

    ResourceError where it decodes no other image either.
    """
    try:
        decode_together([images.content(index)])
    except Undecodable as error:
        return str(error)
    return ""


def _wrong_length(images: ImageList, index: int) -> str:
    """What is wrong with the length of a file, or of the archive that it is in."""
    if images.spans is not None:
        archive, offset, size = images.archive(index)
        end = os.stat(archive).st_size
        if offset + size <= end:
            return ""
        return f"{archive} ends at byte {end}; the image needs {size} bytes from byte {offset} on"
    expected, found = images.length(index), os.stat(images.path(index)).st_size
    if expected in (None, found):
        return ""
    return f"it has {found} bytes, and had {expected} when the lists were made"
