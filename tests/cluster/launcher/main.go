// Command launcher runs one container of the process node.
//
// It has two stages. The first stays on the host: it starts the second in new mount and PID namespaces,
// tells the node what happens (one JSON object per line on standard output) and dies with the node. The second,
// which is process 1 of the new PID namespace, puts the container's root file system together, drops privileges and
// becomes the container's command. When process 1 ends, the kernel kills whatever it left behind.
//
// It is written in Go, with the standard library only, because it runs once per container start:
// two milliseconds, where a Python interpreter takes a tenth of a second of one core.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// exitNotStarted is what container runtimes report for a command that could not be started.
const exitNotStarted = 128

// errorFD is the second stage's end of the pipe that carries its error; a successful exec closes it.
const errorFD = 3

func main() {
	runtime.LockOSThread() // namespaces, capabilities and the parent-death signal belong to a thread
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: launcher run|enter SPEC.json")
		os.Exit(2)
	}
	spec, err := readSpec(os.Args[2])
	if err != nil {
		fail(os.Stderr, err)
	}
	switch os.Args[1] {
	case "run":
		os.Exit(supervise(spec))
	case "enter":
		fail(os.NewFile(errorFD, "error"), become(spec))
	}
	os.Exit(2)
}

func readSpec(path string) (*Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spec := &Spec{path: path}
	return spec, json.Unmarshal(data, spec)
}

func fail(to io.Writer, err error) {
	fmt.Fprint(to, err)
	os.Exit(exitNotStarted)
}

// event is what the node reads: "started" carries pid, "exited" carries the rest.
type event struct {
	Event    string `json:"event"`
	Pid      int    `json:"pid,omitempty"`
	ExitCode int    `json:"exitCode"`
	Signal   int    `json:"signal,omitempty"`
	Error    string `json:"error,omitempty"`
}

func report(e event) {
	line, _ := json.Marshal(e)
	os.Stdout.Write(append(line, '\n'))
}

// supervise is the first stage. It reports "started" only once the command itself runs.
func supervise(spec *Spec) int {
	// The node's death is this machine's death, as far as its containers can tell.
	dieWithParent()
	if os.Getppid() != spec.Parent { // it died before that
		return exitNotStarted
	}
	// Caught and dropped, not ignored: an ignored signal stays ignored in the container.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	command, errorPipe, err := secondStage(spec)
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		report(event{Event: "exited", ExitCode: exitNotStarted, Error: err.Error()})
		return exitNotStarted
	}
	command.ExtraFiles[0].Close()
	startError, _ := io.ReadAll(bufio.NewReader(errorPipe))
	if len(startError) == 0 {
		report(event{Event: "started", Pid: command.Process.Pid})
	}
	ended := exited(command.Wait())
	ended.Error = string(startError)
	report(ended)
	return ended.ExitCode
}

func secondStage(spec *Spec) (*exec.Cmd, *os.File, error) {
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	command := exec.Command("/proc/self/exe", "enter", spec.path)
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{writer}
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		inUserNamespace(command.SysProcAttr)
	}
	return command, reader, nil
}

// inUserNamespace gives a caller who is not root the right to mount, as root of a namespace of its own.
func inUserNamespace(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
}

func exited(err error) event {
	var failed *exec.ExitError
	if err == nil {
		return event{Event: "exited"}
	}
	if !errors.As(err, &failed) {
		return event{Event: "exited", ExitCode: exitNotStarted, Error: err.Error()}
	}
	status := failed.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return event{Event: "exited", ExitCode: 128 + int(status.Signal()), Signal: int(status.Signal())}
	}
	return event{Event: "exited", ExitCode: status.ExitStatus()}
}
