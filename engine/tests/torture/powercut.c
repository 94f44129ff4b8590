/* What a power cut would take away: a library to preload that keeps how to undo whatever has not been synced.
 *
 * It watches the files under $POWERCUT_DIR and writes to $POWERCUT_UNDO, where `powercut.rs` reads it:
 *
 *   <inode>        of a file: what each write or truncation since its last fsync took the place of. A record is three
 *                  native u64 (offset, the file's size before, n) and the n bytes that stood there.
 *   names-<inode>  of a directory: names made, changed or removed since its last fsync, one a line.
 *   stash-<n>      a second name for a file that lost its own by a removal or a renaming over it.
 *
 * Everything is noted before it is done: of what is noted but was never done, the undoing changes nothing. Only fsync
 * and fdatasync make durable; sync_file_range does not, as its manual says. One lock keeps a write from slipping in
 * between an fsync and the forgetting of what it made durable. $POWERCUT_DEAF breaks this on purpose: where it is `all`
 * no fsync makes anything durable, where it is `guard` none of a file that is open for reading alone: sled opens its
 * files for writing, so that its own syncs are left.
 *
 * Not watched, since neither Rust's standard library nor sled calls them here, as strace shows: mmap of these files,
 * openat, fallocate, copy_file_range. Nor are system calls that bypass the C library: fjall renames the file that names
 * its tables by one, so that this one renaming counts as durable at once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))
#define LOCKED(type, call) do { type done_ = (call); pthread_mutex_unlock(&lock); return done_; } while (0)

static void must(int holds, const char *what) {
    if (!holds) { perror(what); abort(); }
}

static int is_below(const char *path) {
    const char *dir = getenv("POWERCUT_DIR");
    size_t len = dir ? strlen(dir) : 0;
    return len && !strncmp(path, dir, len) && (path[len] == '/' || path[len] == 0);
}

/* Tells whether a descriptor is of a file or directory that is watched. */
static int is_watched(int fd, struct stat *st) {
    char link[64], path[PATH_MAX + 1];
    if (fstat(fd, st) || !(S_ISREG(st->st_mode) || S_ISDIR(st->st_mode))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, PATH_MAX);
    path[len < 0 ? 0 : len] = 0;
    return is_below(path);
}

static void undo_path(char *path, const char *kind, uint64_t number) {
    snprintf(path, PATH_MAX, "%s/%s%llu", getenv("POWERCUT_UNDO"), kind, (unsigned long long)number);
}

static void append(const char *kind, uint64_t number, const void *bytes, size_t len) {
    char path[PATH_MAX];
    undo_path(path, kind, number);
    int fd = REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && REAL(write)(fd, bytes, len) == (ssize_t)len, path);
    close(fd);
}

/* Keeps what `len` bytes at `offset` of a file are about to take the place of. */
static void note_content(const char *file, const struct stat *st, uint64_t offset, uint64_t len) {
    uint64_t size = st->st_size, kept = offset >= size ? 0 : size - offset < len ? size - offset : len;
    uint64_t head[3] = {offset, size, kept};
    char *record = malloc(sizeof head + kept);
    int fd = REAL(open)(file, O_RDONLY | O_CLOEXEC);
    must(record && fd >= 0 && pread(fd, record + sizeof head, kept, offset) == (ssize_t)kept, file);
    close(fd);
    memcpy(record, head, sizeof head);
    append("", st->st_ino, record, sizeof head + kept);
    free(record);
}

/* Locks, and keeps what a write to a descriptor is about to take the place of; an offset below 0 is where it stands. */
static void before_write(int fd, off_t offset, uint64_t len) {
    struct stat st;
    char file[64];
    pthread_mutex_lock(&lock);
    if (!is_watched(fd, &st)) return;
    snprintf(file, sizeof file, "/proc/self/fd/%d", fd);
    if (offset < 0) offset = fcntl(fd, F_GETFL) & O_APPEND ? st.st_size : lseek(fd, 0, SEEK_CUR);
    note_content(file, &st, offset, len);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    before_write(fd, -1, len);
    LOCKED(ssize_t, REAL(write)(fd, bytes, len));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    size_t len = 0;
    for (int i = 0; i < count; i++) len += parts[i].iov_len;
    before_write(fd, -1, len);
    LOCKED(ssize_t, REAL(writev)(fd, parts, count));
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) {
    before_write(fd, offset, len);
    LOCKED(ssize_t, REAL(pwrite)(fd, bytes, len, offset));
}

int ftruncate(int fd, off_t len) {
    before_write(fd, len, INT64_MAX);
    LOCKED(int, REAL(ftruncate)(fd, len));
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) { return pwrite(fd, bytes, len, offset); }
int ftruncate64(int fd, off64_t len) { return ftruncate(fd, len); }

static int is_deaf(int fd, const struct stat *st) {
    const char *deaf = getenv("POWERCUT_DEAF");
    int is_read_only = S_ISREG(st->st_mode) && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
    return deaf && (!strcmp(deaf, "all") || is_read_only);
}

static int synced(int fd, int result) {
    struct stat st;
    char path[PATH_MAX];
    if (!result && is_watched(fd, &st) && !is_deaf(fd, &st)) {
        undo_path(path, S_ISDIR(st.st_mode) ? "names-" : "", st.st_ino);
        REAL(unlink)(path);
    }
    return result;
}

int fsync(int fd) {
    pthread_mutex_lock(&lock);
    LOCKED(int, synced(fd, REAL(fsync)(fd)));
}

int fdatasync(int fd) {
    pthread_mutex_lock(&lock);
    LOCKED(int, synced(fd, REAL(fdatasync)(fd)));
}

/* Keeps that a name is about to be made (c), removed (u) or changed (r); what it named until now gets another name. */
static void note_name(char kind, const char *path, const char *from) {
    static uint64_t stashed;
    char parent[PATH_MAX], stash[PATH_MAX] = "-", line[3 * PATH_MAX + 64];
    struct stat st, was;
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    if (stat(parent, &st)) return;
    if (kind != 'c' && !lstat(path, &was)) {
        undo_path(stash, "stash-", (uint64_t)getpid() << 32 | stashed++);
        must(!link(path, stash), path);
    }
    uint64_t inode = from && !lstat(from, &was) ? was.st_ino : 0;
    int len = snprintf(line, sizeof line, "%c %llu %s %s %s\n", kind, (unsigned long long)inode, path,
                       from ? from : "-", stash);
    append("names-", st.st_ino, line, len);
}

int open(const char *path, int flags, ...) {
    struct stat st;
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    pthread_mutex_lock(&lock);
    int is_new = is_below(path) && flags & O_CREAT && stat(path, &st);
    if (is_new) note_name('c', path, NULL);
    else if (is_below(path) && flags & O_TRUNC && !stat(path, &st)) note_content(path, &st, 0, INT64_MAX);
    int fd = REAL(open)(path, flags, mode);
    if (is_new && !fstat(fd, &st)) {
        /* The inode may have been another file's, which is gone. */
        char stale[PATH_MAX];
        undo_path(stale, "", st.st_ino);
        REAL(unlink)(stale);
    }
    LOCKED(int, fd);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
    struct stat st;
    pthread_mutex_lock(&lock);
    if (is_below(path) && stat(path, &st)) note_name('c', path, NULL);
    LOCKED(int, REAL(mkdir)(path, mode));
}

int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    if (is_below(path)) note_name('u', path, NULL);
    LOCKED(int, REAL(unlink)(path));
}

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    if (is_below(to)) note_name('r', to, from);
    LOCKED(int, REAL(rename)(from, to));
}
