#!/bin/sh
# Installs what the tests and the demo need beside cargo: MariaDB with Galera, its client programs, rsync and
# lsof (state transfers between Galera nodes) and PyMySQL. Programs that are named as arguments (haproxy, sysbench) are
# installed as well, from the packages of their names. Run again, it changes nothing.
#
# No service of the system is started: while packages are installed, a policy-rc.d that answers 101 ("not
# allowed") stands in, and what was there before is put back afterwards.
set -eu

# One word a line: the package, and a file that proves it is there. The files are looked at, not the package
# database, so that servers that came another way count as well.
extra="$*"
missing_packages() {
    for program in $extra; do
        command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || echo "$program"
    done
    command -v mariadbd >/dev/null 2>&1 || [ -x /usr/sbin/mariadbd ] || echo mariadb-server
    command -v mariadb-install-db >/dev/null 2>&1 || echo mariadb-server
    command -v mariadb >/dev/null 2>&1 || echo mariadb-client
    command -v mariadb-binlog >/dev/null 2>&1 || echo mariadb-client
    galera_library >/dev/null || echo galera-4
    command -v rsync >/dev/null 2>&1 || echo rsync
    command -v lsof >/dev/null 2>&1 || echo lsof
    command -v ip >/dev/null 2>&1 || echo iproute2
    command -v ss >/dev/null 2>&1 || echo iproute2
    command -v setpriv >/dev/null 2>&1 || echo util-linux
    /usr/bin/python3 -c 'import pymysql' >/dev/null 2>&1 || echo python3-pymysql
}

galera_library() {
    for library in /usr/lib/galera/libgalera_smm.so /usr/lib/*/galera/libgalera_smm.so \
        /usr/lib64/galera-4/libgalera_smm.so /usr/lib/libgalera_smm.so; do
        if [ -f "$library" ]; then
            echo "$library"
            return 0
        fi
    done
    return 1
}

wanted=$(missing_packages | sort -u | tr '\n' ' ')
wanted=${wanted% }
if [ -z "$wanted" ]; then
    exit 0
fi

give_up() {
    echo "Spillway's tests and demo need real MariaDB servers, and some of it is missing here: $1" >&2
    echo "Install these (Debian's package names): $wanted" >&2
    echo "that is: MariaDB server 10.11 with its client programs (mariadbd, mariadb-install-db, mariadb," >&2
    echo "mariadb-binlog), the Galera 4 library, rsync, lsof, ss, ip, setpriv, and PyMySQL for /usr/bin/python3." >&2
    exit 1
}

command -v apt-get >/dev/null 2>&1 || give_up "there is no apt-get on this system."
[ "$(id -u)" = 0 ] || give_up "run this as root, or: sudo apt-get install $wanted"

policy=/usr/sbin/policy-rc.d
kept=$(mktemp -d)
restore_policy() {
    rm -f "$policy"
    if [ -e "$kept/policy-rc.d" ] || [ -L "$kept/policy-rc.d" ]; then
        cp -a "$kept/policy-rc.d" "$policy"
    fi
    rm -rf "$kept"
}
if [ -e "$policy" ] || [ -L "$policy" ]; then
    cp -a "$policy" "$kept/policy-rc.d"
    rm -f "$policy"
fi
trap restore_policy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "installing: $wanted"
log="$kept/apt.log"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # the list is meant to be split into words
if ! {
    apt-get -q -o Acquire::Retries=3 update &&
        apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Lock::Timeout=300 install --no-install-recommends $wanted
} >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    give_up "apt-get could not install it (its last words are above)."
fi

wanted=$(missing_packages | sort -u | tr '\n' ' ')
if [ -n "$wanted" ]; then
    tail -n 40 "$log" >&2
    give_up "apt-get ended well, and yet something is not there."
fi
