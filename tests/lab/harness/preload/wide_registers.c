// SPDX-License-Identifier: Apache-2.0
/*
 * ptrace(2) for a user-mode-linux that keeps 2696 bytes of floating point
 * registers (HOST_FP_SIZE; 6.1 and 6.12 do). Where a processor has more of them
 * (AMX: 11008 bytes) the host takes no less than all of them in
 * PTRACE_SETREGSET (xstateregs_set in arch/x86/kernel/fpu/regset.c), and the
 * guest's first process dies: "ptrace set fp regs failed, errno = 14". So those that
 * are beyond are set, too: to what a process begins with, which is all that they can
 * hold. Linux lets nobody use AMX who has not asked for it, and a guest's process can
 * ask its own kernel only.
 *
 * Loaded before libc, of which it needs nothing but errno: so it is built once for
 * the trees of all suites.
 */
#define _GNU_SOURCE 1

#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>

#define WIDEST_BYTES (64 * 1024)

/*
 * All that there are, and how many bytes; none while 2696 have been enough. Not on the
 * stack: a kernel's has 16 KiB. One processor, so one at a time.
 */
static char registers[WIDEST_BYTES] __attribute__((aligned(64)));
static size_t all_bytes;

static long system_call(long request, long pid, void *address, void *data)
{
	register void *fourth __asm__("r10") = data;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_ptrace), "D"(request), "S"(pid), "d"(address), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

static void copy(void *to, const void *from, size_t bytes)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static long look(long pid)
{
	struct iovec all = { registers, sizeof(registers) };
	long result = system_call(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &all);

	if (result >= 0)
		all_bytes = all.iov_len;
	return result;
}

static long set_all(long pid, const struct iovec *given)
{
	struct iovec all = { registers, all_bytes };

	if (given->iov_len > all_bytes)
		return -EFAULT;
	copy(registers, given->iov_base, given->iov_len);
	return system_call(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &all);
}

static long set_registers(long pid, struct iovec *given)
{
	long result;

	if (!all_bytes) {
		result = system_call(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, given);
		if (result != -EFAULT)
			return result;
		result = look(pid);
		if (result < 0)
			return result;
	}
	return set_all(pid, given);
}

/* As in glibc: what is peeked is the result, not written to where `data` says. */
static int peeks(long request)
{
	return request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA ||
	       request == PTRACE_PEEKUSER;
}

long ptrace(enum __ptrace_request request, ...)
{
	long pid, result, peeked;
	void *address, *data;
	va_list arguments;

	va_start(arguments, request);
	pid = va_arg(arguments, int);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
		result = set_registers(pid, data);
	else
		result = system_call(request, pid, address, peeks(request) ? &peeked : data);
	if (result < 0) {
		errno = (int)-result;
		return -1;
	}
	if (!peeks(request))
		return result;
	errno = 0;
	return peeked;
}
