"""Data sets in their true layout, written by the tests: small ones, `TREES[name](root)`, and with true counts."""

import errno
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from io import BytesIO
from itertools import combinations, cycle, islice, pairwise
from pathlib import Path

import numpy as np
from openpyxl import Workbook
from PIL import Image
from scipy.io import savemat

from iqa_lib.data.demo import packaged_photos
from iqa_lib.data.folder import Counts

SIDE = 8
LIVE_FOLDERS = {"jp2k": 8, "jpeg": 6, "wn": 6, "gblur": 6, "fastfading": 6}
WHOLE_LIVE = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
BAPPS = dict.fromkeys(("train/traditional", "train/cnn", "train/mix"), 3) | dict.fromkeys(
    ("val/traditional", "val/cnn", "val/superres", "val/deblur", "val/color", "val/frameinterp"), 1
)
PIEAPP = {"train": ((1, 12), 3, 2), "val": ((3,), 3, 2), "test": ((4,), 3, 2)}
CLIC = {"validation": Counts(6, 2, 4), "train": Counts(28, 7, 14)}
WHOLE_BAPPS = {"train/traditional": 56_640, "train/cnn": 38_120, "train/mix": 56_640}
WHOLE_BAPPS |= {"val/traditional": 4_720, "val/cnn": 4_720, "val/superres": 10_856, "val/deblur": 9_440}
WHOLE_BAPPS |= {"val/color": 4_720, "val/frameinterp": 1_888}
WHOLE_PIEAPP = {"train": (range(1, 141), 123, 483), "val": (range(141, 161), 123, 483)}
WHOLE_PIEAPP |= {"test": (range(161, 201), 15, 120)}  # how many of the 160 are train is not published
WHOLE_CLIC = {"validation": Counts(5_220, 315, 2_415), "train": Counts(122_107, 2_381, 11_905)}
SIZES = {"clic": (768, 768), "bapps": (64, 64), "pieapp": (256, 256), "pipal": (288, 288), "kadid10k": (512, 384)}
SIZES |= {"tid2013": (512, 384), "live": (768, 512), "csiq": (512, 512)}


def encoded(size: tuple[int, int] = (SIDE, SIDE), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An image of noise, which does not compress: half of the file is not all of the pixels."""
    pixels, buffer = np.random.default_rng(0).bytes(size[0] * size[1] * 4), BytesIO()
    Image.frombytes(mode, size, pixels[: size[0] * size[1] * {"RGB": 3, "RGBA": 4, "I;16": 2}[mode]]).save(buffer, kind)
    return buffer.getvalue()


PNG, BMP = encoded(), encoded(kind="BMP")


def smallest(path: Path) -> bytes:
    """The content of an image of that name."""
    return PNG if path.suffix.lower() == ".png" else BMP


def image(path: Path) -> None:
    write(path, smallest(path))


def write(path: Path, content: str | bytes) -> None:
    """Write a file anew: an old one of that name may be a hard link that other tests share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


class Links:
    """Files of few contents under many names: hard links, to one more copy wherever a file system allows no more."""

    def __init__(self):
        self.copies: dict[bytes, Path] = {}

    def write(self, path: Path, content: str | bytes) -> None:
        content = content.encode() if isinstance(content, str) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.copies[content], path)
        except (KeyError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EMLINK:
                raise
            path.write_bytes(content)
            self.copies[content] = path


@cache
def photograph(size: tuple[int, int], suffix: str, noise: int) -> bytes:
    """An image file of a photograph of that width and height, with noise of that standard deviation."""
    pixels = np.asarray(Image.open(packaged_photos()[0]).convert("RGB").resize(size), float)
    pixels += np.random.default_rng(noise).normal(0, noise, pixels.shape)
    buffer, options = BytesIO(), {"compress_level": 1} if suffix == ".png" else {}
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, suffix[1:], **options)
    return buffer.getvalue()


def one_of_four(name: str, path: Path) -> bytes:
    """The content of an image of the data set `name`: a photograph of its size, of four the one that the path says."""
    return photograph(SIZES[name], path.suffix.lower(), 10 * (zlib.crc32(path.name.encode()) % 4))


def kadid10k(root: Path) -> None:
    lines = ["dist_img,ref_img,dmos,var"]
    for reference in range(1, 7):
        image(root / f"images/I{reference:02}.png")
        for kind, level, dmos in ((1, 1, 4.57), (1, 5, 1.4), (25, 3, 2.23)):
            name = f"I{reference:02}_{kind:02}_{level:02}.png"
            image(root / "images" / name)
            lines.append(f"{name},I{reference:02}.png,{dmos},0.496")
    write(root / "dmos.csv", "\n".join(lines) + "\n")


def tid2013(root: Path) -> None:
    """References 1 to 4 and 25 in the archive's mixed cases."""
    lines = []
    for reference in (1, 2, 3, 4, 25):
        image(root / "reference_images" / ("i25.bmp" if reference == 25 else f"I{reference:02}.BMP"))
        for kind, level, mos in ((1, 1, 5.51429), (24, 5, 0.24242)):
            name = f"{reference:02}_{kind:02}_{level}.bmp"
            image(root / "distorted_images" / f"{'i' if kind == 1 else 'I'}{name}")
            lines.append(f"{mos} I{name}")
    write(root / "mos_with_names.txt", "\r\n".join(lines) + "\r\n")


def live(root: Path, folders: dict[str, int] = LIVE_FOLDERS) -> None:
    """The last image of every folder is an undistorted copy; DMOS is the number in the order, realigned plus 0.5."""
    names = [f"ref{number % 5}.bmp" for number in range(sum(folders.values()))]
    copies = []
    for folder, count in folders.items():
        copies += [0] * (count - 1) + [1]
        for number in range(1, count + 1):
            image(root / folder / f"img{number}.bmp")
    for name in set(names):
        image(root / "refimgs" / name)
    dmos = np.arange(len(names), dtype=float) * 100 / len(names)
    savemat(root / "refnames_all.mat", {"refnames_all": np.array([names], dtype=object)})
    savemat(root / "dmos.mat", {"dmos": dmos[None], "orgs": np.array([copies], float)})
    savemat(root / "dmos_realigned.mat", {"dmos_new": dmos[None] + 0.5, "orgs": np.array([copies], np.uint8)})


def csiq(root: Path) -> None:
    """The workbook, with a header in row 4, numbers as image names and other columns and sheets around."""
    book = Workbook()
    sheet = book.active
    sheet.title = "notes"
    sheet = book.create_sheet("all_by_image")
    for _ in range(3):
        sheet.append(["CSIQ"])
    sheet.append([None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"])
    for reference in (1600, "aerial_city", "boston", "foxy", "trolley"):
        image(root / f"src_imgs/{reference}.png")
        for index, (kind, level, name, dmos) in enumerate(
            (
                ("noise", 1, "awgn/{}.AWGN.1.png", 0.062),
                ("jpeg 2000", 5, "jpeg2000/{}.jpeg2000.5.png", 1.0),
                ("contrast", 3, "contrast/{}.contrast.3.png", 0.25),
            )
        ):
            image(root / "dst_imgs" / name.format(reference))
            sheet.append([None, None, None, reference, index, kind, level, 0.1, dmos])
    book.save(root / "csiq.DMOS.xlsx")


def csiq_list(root: Path) -> None:
    """The community's copy: one flat folder and a text file, whose first line lacks the suffix, as in some copies."""
    lines = []
    for reference in ("1600", "aerial_city", "boston", "foxy", "trolley"):
        image(root / f"src_imgs/{reference}.png")
        for name, dmos in (("AWGN.1", 0.062), ("jpeg2000.5", 1)):
            image(root / f"dst_imgs/{reference}.{name}.png")
            lines.append(f"{reference}.{name}{'.png' if lines else ''} {dmos}")
    write(root / "csiq_label.txt", "\n".join(lines) + "\n")


def pipal(root: Path) -> None:
    for number in range(5):
        reference = f"A{number:04}"
        image(root / f"Train_Ref/{reference}.bmp")
        lines = []
        for kind, elo in ((0, 1434.6), (3, 1200.25), (6, 931)):
            name = f"{reference}_{kind:02}_01.bmp"
            image(root / f"Distortion_{kind // 2 + 1}" / name)
            lines.append(f"{name},{elo}\n")
        write(root / f"Train_Label/{reference}.txt", "".join(lines))


def bapps(root: Path, counts: Mapping[str, int] = BAPPS) -> None:
    """So many triplets of each set."""
    judges = {}
    for value in (0.0, 0.2, 0.5, 1.0):
        np.save(buffer := BytesIO(), np.array([value], np.float32))
        judges[value] = buffer.getvalue()
    for base, count in counts.items():
        values = (0.0, 0.5, 1.0) if base.startswith("train") else (0.2,)
        for number in range(count):
            for side in ("ref", "p0", "p1"):
                image(root / base / side / f"{number:06}.png")
            write(root / base / "judge" / f"{number:06}.npy", judges[values[number % len(values)]])


def pieapp(root: Path, parts: Mapping[str, tuple[Sequence[int], int, int]] = PIEAPP) -> None:
    """Of each part its references' numbers, and of a reference its distorted images and the pairs that are compared.

    The test set compares the reference, too. Small: two references to train, one each to validate and to test.
    """
    head = "ref. image, distorted image A, distorted image B"
    head_of = {"test": f"{head}, preference for A"}
    raw = f"{head}, raw preference for A, processed preference for A"
    kinds = ["blur_inter_1", "my_noise_intra_20", "jpeg_inter_3", *(f"blur_inter_{level}" for level in range(4, 124))]
    for part, (numbers, made, compared) in parts.items():
        write(root / f"{part}_reference_list.txt", "".join(f"ref_{number}.png\n" for number in numbers))
        values = ("0.25", "0.975") if part == "test" else ("0.3,0.25", ",0.9")
        for number in numbers:
            reference, names = f"ref_{number}.png", [f"distort_{number}_{kind}.png" for kind in kinds[:made]]
            image(root / f"reference_images/{part}" / reference)
            for name in names:
                image(root / f"distorted_images/{part}/ref_{number}" / name)
            pairs = [*combinations(names, 2), *((reference, name) for name in names if part == "test")]
            chosen = [pairs[i * (len(pairs) - 1) // (compared - 1)] for i in range(compared)]
            lines = [f"{reference},{a},{b},{value}" for (a, b), value in zip(chosen, cycle(values), strict=False)]
            text = "\n".join([head_of.get(part, raw), *lines]) + "\n"
            write(root / f"labels/{part}/ref_{number}_pairwise_labels.csv", text)


def clic(root: Path, counts: Mapping[str, Counts] = CLIC) -> None:
    """Of each part so many rows on so many originals with so many reconstructions.

    Validation flat; train in folders by first digit, with a row whose choice is the original; repeated triplets.
    """
    for part, digits in {"validation": "56", "train": "01234ab789cdef"}.items():
        wanted, rows = counts[part], []
        for index in range(wanted.references):
            digit, number = digits[index % len(digits)], index // len(digits)
            original = f"{digit}c0{number:029}.png"
            kinds = "abdef123"[: _share(wanted.distorted, index, wanted)]
            made = [f"{digit}{kind * 2}{number:029}.png" for kind in kinds]
            asked = [(original, a, b, vote) for vote in (1, 0) for a, b in pairwise(made)]
            asked += [(original, b, a, 1) for a, b in pairwise(made)]
            asked += [(original, original, made[1], 0)] * (part == "train")
            rows += islice(cycle(asked), _share(wanted.records, index, wanted))
            for name in (original, *made):
                image(root / part / (digit if part == "train" else ".") / name)
        write(root / part / "oracle.csv", "".join(f"{','.join(map(str, row))}\n" for row in rows))
        if part == "validation":
            write(root / part / "validation.csv", "".join(f"{','.join(row[:3])}\n" for row in rows))


def _share(total: int, index: int, wanted: Counts) -> int:
    """How many of a total the reference of that index gets, where all get as many, or one less."""
    return total // wanted.references + (index < total % wanted.references)


def five_levels(references: Path, folder: Path, count: int, kinds: int, name: str, ending: str) -> list[str]:
    """Write references I01, I02, ... and their distorted images of five levels; gives the names of these."""
    names = []
    for reference in (f"I{number:02}" for number in range(1, count + 1)):
        image(references / f"{reference}{ending}")
        names += [name.format(reference, kind, level) for kind in range(1, kinds + 1) for level in range(1, 6)]
    for each in names:
        image(folder / each)
    return names


def whole_kadid10k(root: Path) -> None:
    names = five_levels(root / "images", root / "images", 81, 25, "{}_{:02}_{:02}.png", ".png")
    lines = [f"{name},{name[:3]}.png,{1 + i % 40 / 10:.1f},0.4" for i, name in enumerate(names)]
    write(root / "dmos.csv", "\n".join(["dist_img,ref_img,dmos,var", *lines]))


def whole_pipal(root: Path) -> None:
    for reference in (f"A{number:04}" for number in range(200)):
        image(root / f"Train_Ref/{reference}.bmp")
        names = [f"{reference}_{kind:02}_{level:02}.bmp" for kind in range(4) for level in range(29)]
        for number, name in enumerate(names):
            image(root / f"Distortion_{number % 4 + 1}" / name)
        labels = "".join(f"{name},{1000 + 5 * number}\n" for number, name in enumerate(names))
        write(root / f"Train_Label/{reference}.txt", labels)


def whole_tid2013(root: Path) -> None:
    names = five_levels(root / "reference_images", root / "distorted_images", 25, 24, "{}_{:02}_{}.bmp", ".BMP")
    lines = [f"{i % 70 / 10:.1f} {name}" for i, name in enumerate(names)]
    write(root / "mos_with_names.txt", "\n".join(lines))


def whole_csiq(root: Path) -> None:
    """30 references; 29 distorted images each, but of four one fewer."""
    book = Workbook()
    sheet = book.create_sheet("all_by_image")
    for _ in range(3):
        sheet.append(["CSIQ"])
    sheet.append([None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"])
    kinds = {"noise": "awgn/{}.AWGN.{}.png", "jpeg": "jpeg/{}.JPEG.{}.png", "jpeg 2000": "jpeg2000/{}.jpeg2000.{}.png"}
    kinds |= {"fnoise": "fnoise/{}.fnoise.{}.png", "blur": "blur/{}.BLUR.{}.png"}
    kinds |= {"contrast": "contrast/{}.contrast.{}.png"}
    for number in range(30):
        image(root / f"src_imgs/r{number}.png")
        places = [(kind, level) for kind in kinds for level in range(1, 6)][: 28 if number < 4 else 29]
        for kind, level in places:
            image(root / "dst_imgs" / kinds[kind].format(f"r{number}", level))
            sheet.append([None, None, None, f"r{number}", 1, kind, level, 0.1, number / 30 * level / 5])
    book.save(root / "csiq.DMOS.xlsx")


def whole_live(root: Path) -> None:
    """982 images, 203 of them copies of references."""
    total = sum(WHOLE_LIVE.values())
    copies = (np.arange(total) < 203).astype(float)
    for kind, count in WHOLE_LIVE.items():
        for number in range(1, count + 1):
            image(root / kind / f"img{number}.bmp")
    for number in range(29):
        image(root / f"refimgs/ref{number}.bmp")
    names = np.array([[f"ref{number % 29}.bmp" for number in range(total)]], dtype=object)
    dmos = np.arange(total) * 100 / total
    savemat(root / "refnames_all.mat", {"refnames_all": names})
    savemat(root / "dmos.mat", {"dmos": dmos[None], "orgs": copies[None]})
    savemat(root / "dmos_realigned.mat", {"dmos_new": dmos[None] + 0.5, "orgs": copies[None]})


TREES: dict[str, Callable[[Path], None]] = {
    tree.__name__: tree for tree in (clic, bapps, pieapp, pipal, kadid10k, tid2013, live, csiq, csiq_list)
}

WHOLE: dict[str, Callable[[Path], None]] = {
    "clic": partial(clic, counts=WHOLE_CLIC),
    "bapps": partial(bapps, counts=WHOLE_BAPPS),
    "pieapp": partial(pieapp, parts=WHOLE_PIEAPP),
    "pipal": whole_pipal,
    "kadid10k": whole_kadid10k,
    "tid2013": whole_tid2013,
    "live": whole_live,
    "csiq": whole_csiq,
}
