"""Start the browser app: `python app.py --help` lists the options."""

import sys

from anomaly.ui import main

if __name__ == "__main__":
    sys.exit(main())
