//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// dockerAnswers reports whether there is a container engine, not only its
// client.
func dockerAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := exec.CommandContext(ctx, "docker", "info").Run(); err != nil {
		return fmt.Errorf("%w: no engine answers `docker info`", errAbsent)
	}
	return nil
}

func hasImage(ctx context.Context, image string) bool {
	return exec.CommandContext(ctx, "docker", "image", "inspect", image).Run() == nil
}

// container is a recipe that runs the image in the foreground: the client
// passes signals on to the server in it, and the container goes with it.
func container(folder, image string, flags, args []string) recipe {
	name := "urbandata-engines-" + strings.ToLower(rand.Text())
	run := append([]string{"docker", "run", "--rm", "--name", name}, flags...)
	return recipe{
		prepare: [][]string{{"docker", "pull", "--quiet", image}},
		server:  append(append(run, image), args...),
		dir:     folder,
		log:     folder + ".log",
		stop:    syscall.SIGINT, // both servers take it as a quick, clean stop
		orphan:  syscall.SIGINT,
		portTaken: func(log string) bool {
			return strings.Contains(log, "port is already allocated") || strings.Contains(log, "address already in use")
		},
		cleanup: func() {
			ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
			defer cancel()
			// Usually it has gone by itself.
			_ = exec.CommandContext(ctx, "docker", "rm", "--force", "--volumes", name).Run()
		},
	}
}
