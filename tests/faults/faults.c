/* Makes file operations go wrong: loaded with LD_PRELOAD, since Python's audit hooks see nothing of
   what TensorStore writes.

   After faults_arm(folder, at, error), operations that change something below `folder` are counted.
   Number `at` (from 1) fails with errno `error`, and so do all after it; with error 0 the process
   is killed there, a write when half of it is done. With at 0 they are counted only.

   And where the environment names a BOOT_ID_FILE, that is read in place of the machine's own, so
   that XLA takes processes for ones on several machines. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static int failing_at, failing_with;
static atomic_int armed, events;

void faults_arm(const char *path, int at, int error) {
  strncpy(folder, path, sizeof folder - 1);
  failing_at = at;
  failing_with = error;
  events = 0;
  armed = 1;
}

int faults_seen(void) { return events; }

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static int below(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static void path_of(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  path[length > 0 ? length : 0] = 0;
}

/* Whether this operation is one that goes wrong. */
static int strikes(const char *path) {
  if (!armed || !below(path)) return 0;
  int number = ++events;
  return failing_at && (failing_with ? number >= failing_at : number == failing_at);
}

static int strikes_at(int base, const char *path) {
  char whole[2 * PATH_MAX + 2];
  if (!armed) return 0;
  if (path[0] == '/' || base == AT_FDCWD) return strikes(path);
  path_of(base, whole);
  strcat(whole, "/");
  strncat(whole, path, PATH_MAX);
  return strikes(whole);
}

static int strikes_fd(int fd) {
  char path[PATH_MAX];
  if (!armed) return 0;
  path_of(fd, path);
  return strikes(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(result)       \
  do {                     \
    if (!failing_with) die(); \
    errno = failing_with;  \
    return result;         \
  } while (0)

#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))

#define OPEN(name)                                                   \
  int name(const char *path, int flags, ...) {                       \
    va_list rest;                                                    \
    va_start(rest, flags);                                           \
    mode_t mode = va_arg(rest, mode_t);                              \
    va_end(rest);                                                    \
    if (CHANGES(flags) && strikes_at(AT_FDCWD, path)) FAIL(-1);      \
    return REAL(name)(path, flags, mode);                            \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                 \
  int name(int base, const char *path, int flags, ...) {             \
    va_list rest;                                                    \
    va_start(rest, flags);                                           \
    mode_t mode = va_arg(rest, mode_t);                              \
    va_end(rest);                                                    \
    if (CHANGES(flags) && strikes_at(base, path)) FAIL(-1);          \
    return REAL(name)(base, path, flags, mode);                      \
  }
OPENAT(openat)
OPENAT(openat64)

FILE *fopen64(const char *path, const char *mode) {
  const char *boot_id = getenv("BOOT_ID_FILE");
  if (boot_id && !strcmp(path, "/proc/sys/kernel/random/boot_id")) path = boot_id;
  return REAL(fopen64)(path, mode);
}

ssize_t write(int fd, const void *data, size_t size) {
  if (strikes_fd(fd)) {
    if (!failing_with && REAL(write)(fd, data, size / 2) >= 0) die();
    FAIL(-1);
  }
  return REAL(write)(fd, data, size);
}

#define PWRITE(name, offset_type)                                                \
  ssize_t name(int fd, const void *data, size_t size, offset_type offset) {      \
    if (strikes_fd(fd)) {                                                        \
      if (!failing_with && REAL(name)(fd, data, size / 2, offset) >= 0) die();   \
      FAIL(-1);                                                                  \
    }                                                                            \
    return REAL(name)(fd, data, size, offset);                                   \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (strikes_fd(fd)) FAIL(-1);
  return REAL(writev)(fd, parts, count);
}

int mkdir(const char *path, mode_t mode) {
  if (strikes(path)) FAIL(-1);
  return REAL(mkdir)(path, mode);
}
int mkdirat(int base, const char *path, mode_t mode) {
  if (strikes_at(base, path)) FAIL(-1);
  return REAL(mkdirat)(base, path, mode);
}
int rename(const char *from, const char *to) {
  if (strikes(to)) FAIL(-1);
  return REAL(rename)(from, to);
}
int renameat(int base, const char *from, int target, const char *to) {
  if (strikes_at(target, to)) FAIL(-1);
  return REAL(renameat)(base, from, target, to);
}
int renameat2(int base, const char *from, int target, const char *to, unsigned flags) {
  if (strikes_at(target, to)) FAIL(-1);
  return REAL(renameat2)(base, from, target, to, flags);
}
int link(const char *from, const char *to) {
  if (strikes(to)) FAIL(-1);
  return REAL(link)(from, to);
}
int unlink(const char *path) {
  if (strikes(path)) FAIL(-1);
  return REAL(unlink)(path);
}
int unlinkat(int base, const char *path, int flags) {
  if (strikes_at(base, path)) FAIL(-1);
  return REAL(unlinkat)(base, path, flags);
}
int rmdir(const char *path) {
  if (strikes(path)) FAIL(-1);
  return REAL(rmdir)(path);
}
int fsync(int fd) {
  if (strikes_fd(fd)) FAIL(-1);
  return REAL(fsync)(fd);
}
int fdatasync(int fd) {
  if (strikes_fd(fd)) FAIL(-1);
  return REAL(fdatasync)(fd);
}
int ftruncate(int fd, off_t size) {
  if (strikes_fd(fd)) FAIL(-1);
  return REAL(ftruncate)(fd, size);
}
