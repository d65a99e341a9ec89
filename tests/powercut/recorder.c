/* Records what a process does to the files under $POWERCUT_ROOT, in order, into $POWERCUT_LOG.

   For LD_PRELOAD. Each record is a line "<operation> <offset> <path bytes> <second path bytes> <data bytes>\n", then the
   paths and the data. One lock is held over an operation and its record, so the order of records is that of operations.
   Writes through mmap are not seen: SQLite maps only its -shm file, which it makes again after a crash. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_FILES 4096
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *paths[MOST_FILES];
static const char *root;
static int log_fd = -1;

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void begin(void) {
    root = getenv("POWERCUT_ROOT");
    const char *log = getenv("POWERCUT_LOG");
    if (!root || !log) return;
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
    syscall(SYS_close, fd);
}

static void put(const void *data, size_t size) {
    while (size) {
        ssize_t done = syscall(SYS_write, log_fd, data, size);
        if (done <= 0) abort();
        data = (const char *)data + done;
        size -= done;
    }
}

static void record(const char *operation, long offset, const char *path, const char *second, const void *data, size_t size) {
    char head[128];
    int kept = errno;
    int length = snprintf(head, sizeof head, "%s %ld %zu %zu %zu\n", operation, offset, strlen(path), strlen(second), size);
    put(head, length);
    put(path, strlen(path));
    put(second, strlen(second));
    put(data, size);
    errno = kept;
}

static int ours(const char *path) {
    return log_fd >= 0 && path && !strncmp(path, root, strlen(root));
}

static const char *of(int fd) {
    return log_fd >= 0 && fd >= 0 && fd < MOST_FILES ? paths[fd] : NULL;
}

static void keep(int fd, const char *path) {
    if (fd < 0 || fd >= MOST_FILES) return;
    free(paths[fd]);
    paths[fd] = path ? strdup(path) : NULL;
}

static int opened(int (*real)(int, const char *, int, ...), int directory, const char *path, int flags, int mode) {
    if (!ours(path)) return real(directory, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat facts;
    int missing = stat(path, &facts) != 0;
    int fd = real(directory, path, flags, mode);
    if (fd >= 0) {
        keep(fd, path);
        if (missing) record("create", 0, path, "", "", 0);
        else if ((flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY) record("truncate", 0, path, "", "", 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags) int mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }
int openat(int directory, const char *path, int flags, ...) { MODE(flags); REAL(int, "openat", int, const char *, int, ...); return opened(real, directory, path, flags, mode); }
int openat64(int directory, const char *path, int flags, ...) { MODE(flags); REAL(int, "openat64", int, const char *, int, ...); return opened(real, directory, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags); REAL(int, "openat", int, const char *, int, ...); return opened(real, AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); REAL(int, "openat64", int, const char *, int, ...); return opened(real, AT_FDCWD, path, flags, mode); }

int close(int fd) {
    REAL(int, "close", int);
    pthread_mutex_lock(&lock);
    keep(fd, NULL);
    int result = real(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!of(fd)) return real(fd, data, size);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, size);
    if (done > 0 && of(fd)) record("write", lseek(fd, 0, SEEK_CUR) - done, of(fd), "", data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

static ssize_t placed(ssize_t (*real)(int, const void *, size_t, off64_t), int fd, const void *data, size_t size, off64_t offset) {
    if (!of(fd)) return real(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, size, offset);
    if (done > 0) record("write", offset, of(fd), "", data, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t); return placed(real, fd, data, size, offset); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t); return placed(real, fd, data, size, offset); }

static int synced(int (*real)(int), int fd) {
    if (!of(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    int result = 0; /* the machine's own disk need not wait: what is replayed is the record */
    record("sync", 0, of(fd), "", "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int fsync(int fd) { REAL(int, "fsync", int); return synced(real, fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); return synced(real, fd); }

static int cut(int (*real)(int, off64_t), int fd, off64_t size) {
    if (!of(fd)) return real(fd, size);
    pthread_mutex_lock(&lock);
    int result = real(fd, size);
    if (!result) record("truncate", size, of(fd), "", "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate64(int fd, off64_t size) { REAL(int, "ftruncate64", int, off64_t); return cut(real, fd, size); }
int ftruncate(int fd, off_t size) { REAL(int, "ftruncate64", int, off64_t); return cut(real, fd, size); }

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (!ours(from)) return real(from, to);
    pthread_mutex_lock(&lock);
    int result = real(from, to);
    if (!result) {
        record("rename", 0, from, to, "", 0);
        for (int fd = 0; fd < MOST_FILES; fd++) if (paths[fd] && !strcmp(paths[fd], from)) keep(fd, to);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (!ours(path)) return real(path);
    pthread_mutex_lock(&lock);
    int result = real(path);
    if (!result) record("unlink", 0, path, "", "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (!ours(path)) return real(path, mode);
    pthread_mutex_lock(&lock);
    int result = real(path, mode);
    if (!result) record("mkdir", 0, path, "", "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}
