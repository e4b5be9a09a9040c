//go:build unix

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc/PID/stat: USER_HZ, which is 100 on every Linux.
const tick = time.Second / 100

// stat is what the kernel says of a process in /proc/PID/stat (proc(5)).
type stat struct {
	parent    int
	cpu       time.Duration // its own
	childrens time.Duration // of children that ended
	threads   int
}

// readStat returns zeros where there is no such process, or no /proc.
func readStat(pid int) stat {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, behind, ok := bytes.Cut(text, []byte(") ")) // the name may hold blanks
	f := strings.Fields(string(behind))
	if !ok || len(f) < 18 {
		return stat{}
	}
	n := func(i int) time.Duration {
		v, _ := strconv.ParseInt(f[i], 10, 64)
		return time.Duration(v)
	}
	return stat{parent: int(n(1)), cpu: (n(11) + n(12)) * tick, childrens: (n(13) + n(14)) * tick, threads: int(n(17))}
}

// resident is the resident memory of a process in bytes.
func resident(pid int) int64 {
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// files is how many file handles a process has open.
func files(pid int) int {
	entries, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	return len(entries)
}

// command is the name of a process's program.
func command(pid int) string {
	name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	return strings.TrimSpace(string(name))
}

// family is what a process and its children have used of the processors,
// children that ended among them: a PostgreSQL server.
func family(parent int) time.Duration {
	s := readStat(parent)
	sum := s.cpu + s.childrens
	all, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, path := range all {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if s := readStat(pid); s.parent == parent {
			sum += s.cpu + s.childrens
		}
	}
	return sum
}

// machine is where the figures come from.
type machine struct {
	Processor  string  `json:"processor"`
	Cores      int     `json:"cores"`
	MemoryGB   float64 `json:"memory_gb"`
	System     string  `json:"system"`
	Go         string  `json:"go"`
	PostgreSQL string  `json:"postgresql"`
	MongoDB    string  `json:"mongodb"`
}

// field is the value of the first line of a file of /proc that has a name.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
