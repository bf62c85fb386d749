#!/bin/sh
# Makes directories that each hold a small Debian with one more server and its client programs: MySQL, and MariaDB of
# other versions than this machine's. They cannot be installed side by side, so each gets a root of its own, in which the
# tests start it by chroot. The roots lie beside the templates of the tests, in the user's cache, and run again this
# script changes nothing.
#
#   root.sh NAME                    prints the path; on failure one line on stderr, and exit code 1
#   root.sh --optional [NAME...]    says what happens instead; on failure a block on stderr, and exit code 0
#
# Names: mysql, mariadb-11.8, mariadb-10.5; without one, all of them.
#
# A root is made under another name and renamed when it is complete. The reason of a failure stays in a file
# beside it, for the tests that are skipped because of it.
set -eu
umask 022
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# Seconds that one step may take: a mirror that hangs must not hold up the tests for ever.
patience=600

optional=no
if [ "${1:-}" = --optional ]; then
    optional=yes
    shift
    [ $# -gt 0 ] || set -- mysql mariadb-11.8 mariadb-10.5
    if [ $# -gt 1 ]; then
        for name in "$@"; do
            "$0" --optional "$name"
        done
        exit 0
    fi
fi
name=${1:-}

# layout: counts up whenever what this script puts into the root changes; tests/harness/root.rs names the same root.
# extra: a package of which only the plugins named by `plugins` are taken, for it depends on much more.
case $name in
mysql)
    title='MySQL 9.7'
    layout=1
    suite=sid
    packages='mysql-server-core mysql-client-core'
    extra=
    plugins=
    server=/usr/sbin/mysqld
    client=/usr/bin/mysql
    version_begins=9.
    ;;
mariadb-11.8)
    title='MariaDB 11.8'
    layout=1
    suite=trixie
    packages='mariadb-server-core mariadb-client-core'
    extra=mariadb-server
    plugins='auth_ed25519 auth_parsec'
    server=/usr/sbin/mariadbd
    client=/usr/bin/mariadb
    version_begins=11.8.
    ;;
mariadb-10.5)
    title='MariaDB 10.5'
    layout=1
    suite=bullseye
    packages='mariadb-server-core-10.5 mariadb-client-core-10.5'
    extra=mariadb-server-10.5
    plugins='auth_ed25519'
    server=/usr/sbin/mariadbd
    client=/usr/bin/mariadb
    version_begins=10.5.
    ;;
*)
    echo "usage: $0 NAME, or $0 --optional [NAME...]; names: mysql mariadb-11.8 mariadb-10.5" >&2
    exit 64
    ;;
esac

if [ -n "${XDG_CACHE_HOME:-}" ]; then
    cache=$XDG_CACHE_HOME/spillway
else
    cache=${HOME:-/root}/.cache/spillway
fi
root=$cache/$name-root-$layout
reason_file=$root.reason
drafts=$cache/$name-draft

complete() {
    [ -x "$root$server" ] && [ -x "$root$client" ]
}

succeed() {
    rm -f "$reason_file" 2>/dev/null || true
    if [ "$optional" = no ]; then
        echo "$root"
    fi
    exit 0
}

give_up() {
    { mkdir -p "$cache" && echo "$1" >"$reason_file"; } 2>/dev/null || true
    if [ "$optional" = no ]; then
        echo "$1" >&2
        exit 1
    fi
    line=======================================================================
    printf '\n%s\n  THE TESTS AGAINST %s WILL BE SKIPPED: there is none here.\n  %s\n' \
        "$line" "$(echo "$title" | tr '[:lower:]' '[:upper:]')" "$1" >&2
    printf '  Everything else is tested. To try again: tests/setup/root.sh %s\n%s\n\n' "$name" "$line" >&2
    exit 0
}

if complete; then
    succeed
fi
[ "$(id -u)" = 0 ] || give_up "the root of $title can only be made by root"
command -v apt-get >/dev/null 2>&1 || give_up "the root of $title is made from Debian's packages, and there is no apt-get here"
command -v flock >/dev/null 2>&1 || give_up "there is no flock here (package util-linux)"
mkdir -p "$cache" 2>/dev/null || give_up "cannot make $cache"

# Two runs at once: the second waits for the first, and finds its work done.
exec 9>"$root.lock"
flock -w $((3 * patience)) 9 || give_up "another run has been making the root of $title for too long ($root.lock)"
if complete; then
    succeed
fi

work=$(mktemp -d)
log=$work/log
draft=$drafts-$$
policy=/usr/sbin/policy-rc.d
policy_replaced=no

# Nothing below a draft may be mounted when it is removed: debootstrap mounts /proc and /sys of this machine there.
remove_tree() {
    # The last mounted first.
    mounted=$(awk -v under="$1/" 'index($2 "/", under) == 1 { list = $2 "\n" list } END { printf "%s", list }' /proc/self/mounts)
    for place in $mounted; do
        umount "$place" 2>/dev/null || umount -l "$place" 2>/dev/null || true
    done
    rm -rf --one-file-system "$1" || true
}

restore_policy() {
    if [ "$policy_replaced" = yes ]; then
        policy_replaced=no
        rm -f "$policy"
        if [ -e "$work/policy-rc.d" ] || [ -L "$work/policy-rc.d" ]; then
            cp -a "$work/policy-rc.d" "$policy"
        fi
    fi
}

clean_up() {
    restore_policy
    remove_tree "$draft"
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The end of the log as one line.
last_words() {
    grep -v '^ *$' "$log" | tail -n 3 | tr -s '\n\t ' ' ' | cut -c 1-400 | sed 's/ $//'
}

say() {
    if [ "$optional" = yes ]; then
        echo "$1"
    fi
}

# What a killed run left behind; the lock says that no other run is at work.
for left in "$drafts"-* "$root"; do
    if [ -e "$left" ]; then
        remove_tree "$left"
    fi
done

export DEBIAN_FRONTEND=noninteractive LC_ALL=C
say "installing: $title in $root (about a minute)"

if ! command -v debootstrap >/dev/null 2>&1 || ! command -v gpgv >/dev/null 2>&1 ||
    [ ! -f /usr/share/keyrings/debian-archive-keyring.gpg ]; then
    # As in install.sh: no service of the system is started.
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        cp -a "$policy" "$work/policy-rc.d"
        rm -f "$policy"
    fi
    policy_replaced=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    if ! {
        timeout --foreground -k 10 "$patience" apt-get -q -o Acquire::Retries=3 update &&
            timeout --foreground -k 10 "$patience" apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Lock::Timeout=300 \
                install --no-install-recommends debootstrap gpgv debian-archive-keyring
    } >"$log" 2>&1 9>&-; then
        give_up "cannot install debootstrap: $(last_words)"
    fi
    restore_policy
fi

# The mirror that this machine itself uses; security and the like are archives of their own.
mirrors() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n 's/^Debian|Debian|\(\(https\{0,1\}\|file\|ftp\):.*\)$/\1/p' | head -n 1
}
mirror=$(mirrors)
if [ -z "$mirror" ]; then
    # apt knows an archive's name only once its lists were fetched.
    timeout --foreground -k 10 "$patience" apt-get -q -o Acquire::Retries=3 update >"$log" 2>&1 9>&- || true
    mirror=$(mirrors)
fi
[ -n "$mirror" ] || give_up "no mirror of Debian among apt's sources on this machine"
# The programs below fetch as apt does.
if [ -z "${http_proxy:-}" ]; then
    eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
    [ -z "${http_proxy:-}" ] || export http_proxy
fi

timeout --foreground -k 10 "$patience" debootstrap --force-check-gpg --variant=minbase "$suite" "$draft" "$mirror" >"$log" 2>&1 9>&- ||
    give_up "cannot make a Debian $suite from $mirror: $(last_words)"

# No `apt-get update` in the root: the lists that debootstrap fetched and verified serve, while the release file of sid
# can be past its Valid-Until, and apt then refuses it.
printf '#!/bin/sh\nexit 101\n' >"$draft/usr/sbin/policy-rc.d"
chmod 755 "$draft/usr/sbin/policy-rc.d"
# shellcheck disable=SC2086 # the list is meant to be split into words
timeout --foreground -k 10 "$patience" chroot "$draft" apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends $packages \
    >"$log" 2>&1 9>&- || give_up "cannot install $packages from $mirror: $(last_words)"

# The plugins' libraries without what else comes with them: they need nothing that the server itself does not.
take_plugins() {
    timeout --foreground -k 10 "$patience" chroot "$draft" sh -c "cd /tmp && apt-get -q -o APT::Sandbox::User=root \
        -o Acquire::Retries=3 download $extra && dpkg-deb -x ${extra}_*.deb extra" || return 1
    mkdir -p "$draft/usr/lib/mysql/plugin" || return 1
    for plugin in $plugins; do
        cp "$draft/tmp/extra/usr/lib/mysql/plugin/$plugin.so" "$draft/usr/lib/mysql/plugin/" || return 1
    done
    rm -rf "$draft/tmp/extra" "$draft"/tmp/*.deb
}
if [ -n "$extra" ] && ! take_plugins >"$log" 2>&1 9>&-; then
    give_up "cannot get $plugins from the package $extra: $(last_words)"
fi

version=$(chroot "$draft" "$server" --version 2>"$log") || give_up "$title does not run: $(last_words)"
case $version in
*" Ver $version_begins"*) ;;
*) give_up "the tests are written for $title, and Debian $suite has another: $version" ;;
esac

# The user that servers run as, and where their directories lie.
if ! {
    chroot "$draft" getent passwd mysql ||
        chroot "$draft" useradd --system --user-group --no-create-home --shell /usr/sbin/nologin mysql
} >"$log" 2>&1; then
    give_up "cannot make the user mysql: $(last_words)"
fi
mkdir -p "$draft/var/lib/spillway"
chroot "$draft" apt-get clean >"$log" 2>&1 || true
rm -rf "$draft"/var/lib/apt/lists/* "$draft"/usr/share/doc/* "$draft"/usr/share/man/* "$draft"/usr/share/locale/*

if grep -q " $draft/" /proc/self/mounts; then
    remaining=$(awk -v under="$draft/" 'index($2, under) == 1 { print $2 }' /proc/self/mounts)
    for place in $remaining; do
        umount "$place" 2>"$log" || give_up "cannot unmount $place: $(last_words)"
    done
fi
mv "$draft" "$root" 2>"$log" || give_up "cannot keep $root: $(last_words)"
complete || give_up "Debian's packages $packages do not bring what the tests need ($root)"
succeed
