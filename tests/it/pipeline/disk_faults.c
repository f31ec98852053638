/* A disk that misbehaves on demand: preloaded into the daemon under test, it stands between the program and the system
 * calls that change files below DISK_FAULTS_DIR. What it does is read from the file DISK_FAULTS_CONTROL at every call:
 *
 *   WHAT ERRNO MILLISECONDS
 *
 * WHAT is `sync` (fsync, fdatasync), `write` (everything that writes) or `all` (both; with EROFS opening to write, too);
 * ERRNO is what the call fails with, 0 to let it through; MILLISECONDS are waited before. No file, an empty one: a disk
 * that is well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct fault {
    char what[16];
    int error;
    long wait_ms;
};

/* By bare system calls: the functions below stand for those of the C library. */
static int read_control(struct fault *fault) {
    const char *path = getenv("DISK_FAULTS_CONTROL");
    if (path == NULL) return 0;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char text[64];
    long length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0) return 0;
    text[length] = 0;
    return sscanf(text, "%15s %d %ld", fault->what, &fault->error, &fault->wait_ms) == 3;
}

static int is_below(const char *path) {
    const char *dir = getenv("DISK_FAULTS_DIR");
    return dir != NULL && strncmp(path, dir, strlen(dir)) == 0;
}

static int is_file_below(int fd) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* What to fail with; 0 to go on. */
static int fault_of(const char *what, int fd) {
    int kept = errno, error = 0;
    struct fault fault;
    if (is_file_below(fd) && read_control(&fault) &&
        (strcmp(fault.what, "all") == 0 || strcmp(fault.what, what) == 0)) {
        struct timespec wait = {fault.wait_ms / 1000, fault.wait_ms % 1000 * 1000000};
        nanosleep(&wait, NULL);
        error = fault.error;
    }
    errno = error ? error : kept;
    return error;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t length) {
    return fault_of("write", fd) ? -1 : syscall(SYS_write, fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return fault_of("write", fd) ? -1 : REAL(pwrite)(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    return fault_of("write", fd) ? -1 : REAL(pwrite64)(fd, bytes, length, at);
}

int ftruncate(int fd, off_t length) {
    return fault_of("write", fd) ? -1 : REAL(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    return fault_of("write", fd) ? -1 : REAL(ftruncate64)(fd, length);
}

int fsync(int fd) {
    return fault_of("sync", fd) ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd) {
    return fault_of("sync", fd) ? -1 : REAL(fdatasync)(fd);
}

static int is_refused(const char *path, int flags) {
    struct fault fault;
    if ((flags & O_ACCMODE) == O_RDONLY || !is_below(path) || !read_control(&fault)) return 0;
    if (strcmp(fault.what, "all") != 0 || fault.error != EROFS) return 0;
    errno = EROFS;
    return 1;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return is_refused(path, flags) ? -1 : REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return is_refused(path, flags) ? -1 : REAL(open64)(path, flags, mode);
}
