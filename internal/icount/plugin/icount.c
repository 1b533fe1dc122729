/*
 * A QEMU TCG plugin that counts the instructions a guest executes.
 *
 * The count is one little-endian u64 in the file given as out=PATH, mapped shared, so that the host can read it at any
 * moment. A block that an exception cuts short counts as a whole.
 *
 * The few prototypes of the plugin API that are used are declared here (QEMU's documentation, "QEMU TCG Plugins"), since
 * distributions ship QEMU without its header. All of them are the same in every version of the API so far.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
typedef void (*on_translate)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*on_execute)(unsigned int vcpu, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translate cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, on_execute cb, int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);

EXPORT int qemu_plugin_version = PLUGIN_API_VERSION;

static uint64_t *count;

/* vCPUs run in threads of their own when there are several */
static void executed(unsigned int vcpu, void *data)
{
	__atomic_fetch_add(count, (uintptr_t)data, __ATOMIC_RELAXED);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	void *map;
	int fd;

	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "icount: want out=PATH\n");
		return -1;
	}
	fd = open(argv[0] + 4, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof *count)) {
		perror("icount: make the file of the count");
		return -1;
	}
	map = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED) {
		perror("icount: map the file of the count");
		return -1;
	}
	count = map;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
