/*
 * A disk and a clock that misbehave on demand, put before the C library of a member under test. A
 * sync of a file below DIR/databases does not return while DIR/stalled exists, takes 40 ms longer
 * while DIR/slow does, fails while DIR/broken does, and kills the process while DIR/deadly does. The
 * same is true of DIR/keelson-probe. The counters of its reads are
 * those of the file that DISK_COUNTERS names, while there is one. The wall clock is ahead by the
 * seconds in a file, while there is one: that which CLOCK_FILE names, else `clock` beside the
 * configuration that the command line names. Other clocks go on as they are, as they do when an
 * operator sets the time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int told(const char *directory, const char *file)
{
    char path[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    return access(path, F_OK) == 0;
}

int fdatasync(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    size_t end = strlen(path);
    /* The start of a copy is counted in its control file, before anything that could go wrong. */
    int control = end > 8 && strcmp(path + end - 8, "/control") == 0;
    char *below = strstr(path, "/databases/");
    if (below == NULL)
        below = strstr(path, "/keelson-probe");
    if (below != NULL)
        *below = 0;
    struct timespec pause = {0, 10 * 1000 * 1000};
    while (below != NULL && told(path, "stalled"))
        nanosleep(&pause, NULL);
    struct timespec longer = {0, 40 * 1000 * 1000};
    if (below != NULL && told(path, "slow"))
        nanosleep(&longer, NULL);
    if (below != NULL && told(path, "broken")) {
        errno = EIO;
        return -1;
    }
    int result = syscall(SYS_fdatasync, fd);
    if (below != NULL && !control && told(path, "deadly"))
        kill(getpid(), SIGKILL);
    return result;
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    const char *counters = getenv("DISK_COUNTERS");
    int wanted = counters != NULL && strncmp(path, "/sys/dev/block/", 15) == 0;
    if (wanted && access(counters, R_OK) == 0)
        path = counters;
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* The file of seconds; empty if neither the environment nor the command line names one. */
static char clock_file[PATH_MAX];

__attribute__((constructor)) static void find_clock(void)
{
    const char *named = getenv("CLOCK_FILE");
    if (named != NULL) {
        snprintf(clock_file, sizeof clock_file, "%s", named);
        return;
    }
    char line[4 * PATH_MAX];
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    ssize_t length = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    if (fd >= 0)
        close(fd);
    line[length > 0 ? length : 0] = 0;
    for (char *word = line; word < line + length; word += strlen(word) + 1) {
        char *name = strstr(word, "/keelson.toml");
        if (name != NULL)
            snprintf(clock_file, sizeof clock_file, "%.*s/clock", (int)(name - word), word);
    }
}

/* Looks at the file every 10 ms at most: programs ask for the time all the while. */
static long ahead(const struct timespec *steady)
{
    static _Atomic long looked_at, seconds;
    long now = steady->tv_sec * 100 + steady->tv_nsec / (10 * 1000 * 1000);
    if (looked_at == now || clock_file[0] == 0)
        return seconds;
    looked_at = now;
    char text[32] = "0";
    int fd = syscall(SYS_openat, AT_FDCWD, clock_file, O_RDONLY);
    if (fd >= 0) {
        ssize_t length = read(fd, text, sizeof text - 1);
        text[length > 0 ? length : 0] = 0;
        close(fd);
    }
    seconds = atol(text);
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    struct timespec steady;
    if (clock == CLOCK_REALTIME && result == 0 && real(CLOCK_MONOTONIC, &steady) == 0)
        time->tv_sec += ahead(&steady);
    return result;
}
