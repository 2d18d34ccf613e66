"""``python -m llmforge.courier RUN_DIRECTORY``."""

import sys

from llmforge.courier.process import main

sys.exit(main(sys.argv[1:]))
