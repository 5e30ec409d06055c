package edgetest

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// StartOnTerminal is Start with a terminal for standard output, as when a person starts it.
func StartOnTerminal(t testing.TB, args ...string) *Process {
	t.Helper()
	return startOn(t, Command(t, false, args...), func(out io.Writer) io.Writer {
		master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		var number, locked int32
		raw, _ := master.SyscallConn()
		raw.Control(func(fd uintptr) {
			syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCSPTLCK, uintptr(unsafe.Pointer(&locked)))
			syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPTN, uintptr(unsafe.Pointer(&number)))
		})
		slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(out, master) // ends with master
		t.Cleanup(func() {
			slave.Close()
			master.Close()
		})
		return slave
	})
}
