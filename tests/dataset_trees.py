"""Small data sets in their true layout, written by the tests: `TREES[name](root)`."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from openpyxl import Workbook
from PIL import Image
from scipy.io import savemat

SIDE = 8
LIVE_FOLDERS = {"jp2k": 8, "jpeg": 6, "wn": 6, "gblur": 6, "fastfading": 6}


def encoded(size: tuple[int, int] = (SIDE, SIDE), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An image of noise, which does not compress: half of the file is not all of the pixels."""
    pixels, buffer = np.random.default_rng(0).bytes(size[0] * size[1] * 4), BytesIO()
    Image.frombytes(mode, size, pixels[: size[0] * size[1] * {"RGB": 3, "RGBA": 4, "I;16": 2}[mode]]).save(buffer, kind)
    return buffer.getvalue()


PNG, BMP = encoded(), encoded(kind="BMP")


def image(path: Path) -> None:
    write(path, PNG if path.suffix.lower() == ".png" else BMP)


def write(path: Path, content: str | bytes) -> None:
    """Write a file anew: an old one of that name may be a hard link that other tests share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


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


def bapps(root: Path) -> None:
    sets = {
        "train": ("traditional", "cnn", "mix"),
        "val": ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"),
    }
    for part, names in sets.items():
        for name in names:
            for number, judge in enumerate((0.0, 0.5, 1.0) if part == "train" else (0.2,)):
                for side in ("ref", "p0", "p1"):
                    image(root / part / name / side / f"{number:06}.png")
                path = root / part / name / "judge" / f"{number:06}.npy"
                path.parent.mkdir(exist_ok=True)
                np.save(path, np.array([judge], np.float32))


def pieapp(root: Path) -> None:
    """Two references to train, one each to validate and to test; the test set compares the reference, too."""
    head = "ref. image, distorted image A, distorted image B"
    for part, numbers in {"train": (1, 12), "val": (3,), "test": (4,)}.items():
        write(root / f"{part}_reference_list.txt", "".join(f"ref_{number}.png\n" for number in numbers))
        for number in numbers:
            reference = f"ref_{number}.png"
            a, b, c = (f"distort_{number}_{kind}.png" for kind in ("blur_inter_1", "my_noise_intra_20", "jpeg_inter_3"))
            image(root / f"reference_images/{part}" / reference)
            for name in (a, b, c):
                image(root / f"distorted_images/{part}/ref_{number}" / name)
            if part == "test":
                lines = [f"{head}, preference for A", f"{reference},{a},{b},0.25", f"{reference},{reference},{c},0.975"]
            else:
                lines = [
                    f"{head}, raw preference for A, processed preference for A",
                    f"{reference},{a},{b},0.3,0.25",
                    f"{reference},{b},{c},,0.9",
                ]
            write(root / f"labels/{part}/ref_{number}_pairwise_labels.csv", "\n".join(lines) + "\n")


def clic(root: Path) -> None:
    """Validation flat; train in folders by first digit, with a row whose choice is the original; repeated triplets."""
    for part, originals in {"validation": "56", "train": "01234ab"}.items():
        rows = []
        for digit in originals:
            original, a, b = (f"{digit}{kind}{'0' * 29}.png" for kind in ("c0", "aa", "bb"))
            rows += [(original, a, b, 1), (original, a, b, 0), (original, b, a, 1)]
            if part == "train":
                rows.append((original, original, b, 0))
            for name in (original, a, b):
                image(root / part / (digit if part == "train" else ".") / name)
        write(root / part / "oracle.csv", "".join(f"{','.join(map(str, row))}\n" for row in rows))
        if part == "validation":
            write(root / part / "validation.csv", "".join(f"{','.join(row[:3])}\n" for row in rows))


TREES: dict[str, Callable[[Path], None]] = {
    tree.__name__: tree for tree in (clic, bapps, pieapp, pipal, kadid10k, tid2013, live, csiq, csiq_list)
}
