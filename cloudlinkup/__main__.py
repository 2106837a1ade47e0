"""`python -m cloudlinkup` is the command line too."""

from cloudlinkup.cli.main import main

main()
