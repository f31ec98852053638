/* A host that misbehaves on demand, preloaded into the daemon under test.
 *
 * LIFE_FAULTS_CLOCK names a file of 8 bytes: seconds (signed, of this machine's byte order) by which the wall clock is off.
 * LIFE_FAULTS_CONTROL names a file that says what hangs for as long as it says so: `reactor` (waiting for network and
 * timers, and with it everything asynchronous), `reads` (reads of queue.db and its log).
 * LIFE_FAULTS_RANDOM: generators (that ask for more than 16 bytes) are not seeded on the threads that run the tasks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("LIFE_FAULTS_CLOCK");
    if (path == NULL) return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (mapped != MAP_FAILED) ahead = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (syscall(SYS_clock_gettime, clock, now) != 0) return -1;
    if (ahead != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec time;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0) return -1;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at != NULL) *at = now.tv_sec;
    return now.tv_sec;
}

static int hangs(const char *what) {
    const char *path = getenv("LIFE_FAULTS_CONTROL");
    if (path == NULL) return 0;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char text[32];
    long length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0) return 0;
    text[length] = 0;
    return strcmp(text, what) == 0;
}

static void hang_while(const char *what) {
    int kept = errno;
    while (hangs(what)) {
        struct timespec wait = {0, 50 * 1000000};
        nanosleep(&wait, NULL);
    }
    errno = kept;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int epoll_wait(int epoll, struct epoll_event *events, int most, int wait_ms) {
    hang_while("reactor");
    return REAL(epoll_wait)(epoll, events, most, wait_ms);
}

static void hang_if_queue(int fd) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int kept = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return;
    path[length] = 0;
    if (strstr(path, "/queue.db") != NULL) hang_while("reads");
}

ssize_t read(int fd, void *bytes, size_t length) {
    hang_if_queue(fd);
    return syscall(SYS_read, fd, bytes, length);
}

ssize_t pread(int fd, void *bytes, size_t length, off_t at) {
    hang_if_queue(fd);
    return REAL(pread)(fd, bytes, length, at);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t at) {
    hang_if_queue(fd);
    return REAL(pread64)(fd, bytes, length, at);
}

ssize_t getrandom(void *bytes, size_t length, unsigned flags) {
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    if (length > 16 && getenv("LIFE_FAULTS_RANDOM") != NULL && strncmp(name, "tokio", 5) == 0) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_getrandom, bytes, length, flags);
}
