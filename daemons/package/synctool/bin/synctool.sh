#!/bin/sh
# Runs osync-syncd in the place of OpenMLDB's SyncTool, from the folder synctool/bin of a package, with the properties
# that bin/start.sh puts into synctool/conf. Relative paths in them count from here, as there. OpenMLDB's own package
# may have a symbolic link to this file: then its properties count.
program=$(dirname "$(readlink -f "$0")")/../../bin/osync-syncd
cd "$(dirname "$0")" || exit 1
exec "$program" -c ../conf/synctool.properties "$@"
