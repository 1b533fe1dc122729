package qemu

import "syscall"

// endsWithUs has the kernel end a process when the thread that starts it ends: prctl(2), PR_SET_PDEATHSIG.
func endsWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
