#!/bin/sh
# Makes tests/abi/libosync.abi anew: for a release. Between releases it stays, so that what a program was built against
# is what every build is compared with.
set -eu
cd "$(dirname "$0")"
/usr/bin/python3 abi.py describe ../../include/osync libosync.abi
