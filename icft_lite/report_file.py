"""The report of a finished run: report.json in its folder, which is written last."""

import json
from pathlib import Path
from typing import Any

from icft_lite.compat import migrate_report
from icft_lite.errors import ICFTError


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report of a finished run, in the present format whatever version wrote it.

    Raises ICFTError if `folder` holds no finished run, or a report that cannot be read.
    """
    path = Path(folder) / "report.json"
    try:
        return migrate_report(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ICFTError(f"{folder}: no finished run (report.json is missing); give the --out folder of one") from None
    except NotADirectoryError:
        raise ICFTError(f"{folder}: is a file; give the --out folder of a run") from None
    except (OSError, ValueError) as error:
        raise ICFTError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); restore the file, or run again in another folder"
        ) from None
