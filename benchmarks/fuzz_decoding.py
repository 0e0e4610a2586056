"""Random bytes, guided by what they reach, through all that decodes and strips uploads.

atheris is kept out of the environment of the project; its wheel needs no compiler:

    .venv/bin/pip install --target .peers/atheris atheris
    PYTHONPATH=.peers/atheris .venv/bin/python -m benchmarks.fuzz_decoding --minutes 5

Begins with pictures that Pillow writes in each format, and texts. An end by anything but a PictureError, a picture
that still says where it was taken, more than 10 s for one input or 1 GB of memory is a finding: its input is kept in
`--findings`, and told. What was of interest is kept in `--corpus`, where the next run goes on.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LONGEST = 20_000  # bytes of an input
PIXELS = 250_000  # that may be decoded: more would only take longer
SECRET = "SECRET-PLACE"
ORIENTATION = 0x0112


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=5.0)
    words.add_argument("--corpus", type=Path)
    words.add_argument("--findings", type=Path, default=Path("findings"))
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = asked.corpus or Path(folder)
        corpus.mkdir(parents=True, exist_ok=True)
        for name, content in seeds().items():
            (corpus / name).write_bytes(content)
        return told(corpus, asked.findings, 60 * asked.minutes)


def told(corpus: Path, findings: Path, seconds: float) -> int:
    """Runs until the time is over, again after each finding; prints the sums, 1 where anything was found."""
    findings.mkdir(parents=True, exist_ok=True)
    end, runs, peak, found = time.monotonic() + seconds, 0, 0, 0
    while (left := end - time.monotonic()) > 1:
        limits = [f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=1024", f"-max_total_time={int(left)}"]
        limits += ["-print_final_stats=1", f"-artifact_prefix={findings}/"]
        child = [sys.executable, "-m", "benchmarks.fuzz_decoding", "--child", *limits, str(corpus)]
        done = subprocess.run(child, capture_output=True, text=True, errors="replace", check=False)
        stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
        runs += int(stats.get("number_of_executed_units", 0))
        peak = max(peak, int(stats.get("peak_rss_mb", 0)))
        if done.returncode:
            found += 1
            sys.stdout.write(done.stderr[-3000:] + "\n")
        if not stats:
            break
    covered = sorted(corpus.iterdir())
    print(f"{runs:,} inputs in {seconds / 60:.1f} minutes, {len(covered):,} of interest; {found} findings; {peak} MB")
    return int(found > 0)


def seeds() -> dict[str, bytes]:
    """A picture of each format and of many modes, with what tells of its place; and what is none."""
    from PIL import Image, PngImagePlugin

    found = {"text": b"a text of some words", "utf16": "größe bank".encode("utf-16"), "svg": b"<svg xmlns='x'/>"}
    noise = Image.effect_noise((17, 11), 90)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"):
        image = noise.convert("L").convert(mode) if mode != "I;16" else noise.convert("I").convert(mode)
        for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000"):
            exif, text = Image.Exif(), PngImagePlugin.PngInfo()
            exif[ORIENTATION], exif[0x010E] = 6, SECRET
            text.add_itxt("XML:com.adobe.xmp", SECRET)
            more = {"JPEG": {"exif": exif, "comment": SECRET, "progressive": mode == "L"}}
            more |= {"PNG": {"exif": exif, "pnginfo": text}, "WEBP": {"exif": exif, "xmp": SECRET.encode()}}
            more |= {"AVIF": {"exif": exif}, "GIF": {"comment": SECRET, "save_all": True, "append_images": [image]}}
            file = io.BytesIO()
            try:
                image.save(file, form, **more.get(form, {}))
            except (OSError, ValueError, KeyError):
                continue  # the format doesn't know that mode
            found[f"{form}-{mode.replace(';', '')}"] = file.getvalue()
    return found


def child(words: list[str]) -> None:
    """libFuzzer's own loop; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["inflame", "PIL"]):
        from PIL import Image

        from inflame.artifact import magic, pillow, preprocess, texts
        from inflame.artifact.bare import bare
        from inflame.records import Preprocess
        from inflame.web import thumbs

        Image.init()  # all formats: one that is imported later isn't watched

    plans = [Preprocess(size=24, resize=32, channels=channels, max_pixels=PIXELS) for channels in (1, 3)]

    def one(content: bytes) -> None:
        magic.sniff(content)
        texts.decode(content)
        for plan in plans:
            try:
                pixels = preprocess.pixels(content, plan)
                assert pixels.shape == (24, 24, plan.channels)
            except preprocess.PictureError:
                continue
        try:
            preprocess.header(content, max_pixels=PIXELS)
            preprocess.picture(content, max_pixels=PIXELS)
        except preprocess.PictureError:
            return
        assert thumbs.one(content, 48)
        with pillow.quiet():
            strip(content)

    def strip(content: bytes) -> None:
        try:
            plain = bare(content)
        except Exception:  # as where it is called: then nothing is kept
            return
        try:
            image = Image.open(io.BytesIO(plain))
            image.load()
        except Exception:
            return  # nor can anybody else see a picture in it
        assert set(image.getexif()) <= {ORIENTATION}, "EXIF is left"
        left = {"comment", "xmp", "photoshop", "XML:com.adobe.xmp"} & set(image.info)
        assert not left, f"{left} are left"

    atheris.Setup(words, one)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child([sys.argv[0], *sys.argv[2:]])
    else:
        sys.exit(main())
