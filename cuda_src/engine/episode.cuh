// The course of an episode around an environment's dynamics: counting, termination, truncation, statistics, autoreset.
#pragma once

#include "environment.cuh"

enum class Autoreset { next_step, same_step, disabled };  // as in gymnasium.vector.AutoresetMode

template <class Rules>
class Episode : public Rules {
 protected:
  bool finished_ = false;   // the episode ended in this step
  bool truncated_ = false;  // the step limit is reached
  bool done_ = false;       // the episode is over

  // One step, or what stands in its place for a copy whose episode is over. Returns whether it was one.
  METHOD bool advance() {
    this->only_if(true);
    this->each_own(this->agents, [&](int i) {
      this->reward[i] = 0.0f;
      this->terminated[i] = !this->alive[i];
    });
    const bool over = this->is_over();
    this->template side_by_side<2, false>([&](int k) {  // no copy does both
      const bool plays = k == 0;
      this->only_if(plays ? !over : over && Geometry::autoreset != Autoreset::disabled);
      if (!this->any_active()) return;
      if (plays) return play();
      this->each_own(this->agents, [&](int i) { this->terminated[i] = false; });
      restart();
    });
    truncated_ = this->time >= this->arguments_->max_steps;
    done_ = over ? Geometry::autoreset == Autoreset::disabled : finished_;
    return !over;
  }

  // The state at the start of the next episode.
  METHOD void restart() {
    if (this->active_) {
      ++this->new_episodes_;
      this->time = 0;
    }
    this->each(this->agents, [&](int i) {
      if (this->alive[i]) return;
      this->alive[i] = true;
      this->alive_changed_ = true;
    });
    this->forget_sums();
    Rules::reset();
  }

  // A reset that the user asks for; copies that are not chosen stay as they are.
  METHOD void restart_if(bool chosen) {
    this->only_if(chosen);
    this->reseeding_ = this->active_ && this->arguments_->reseed != 0;
    if (this->any_active()) restart();
    this->each(this->agents, [&](int i) {
      const int g = this->group_of(i);
      const Range group = this->group_range(g);
      const std::size_t at = this->copy_ * group.size + (i - group.first);
      this->arguments_->reward[g][at] = 0.0f;
      this->arguments_->terminated[g][at] = false;
    });
    if (!this->is_leader()) return;
    this->arguments_->truncated[this->copy_] = false;
    this->arguments_->done[this->copy_] = false;
  }

  // Writes what agents may choose next, in the groups that mask actions; all that exists for agents out of the game.
  METHOD void write_masks() {
    if constexpr (Rules::any_masks)
      this->each(this->agents, [&](int i) {
        const int g = this->group_of(i);
        if (!this->masks_actions(g)) return;
        const int components = this->action_width(g), most = this->most_choices(g);
        const Range group = this->group_range(g);
        const std::size_t row = this->copy_ * group.size + (i - group.first);
        bool* mask = this->arguments_->action_mask[g] + row * components * most;
        for (int component = 0; component < components; ++component)
          for (int choice = 0; choice < most; ++choice)
            mask[component * most + choice] =
                choice < this->action_count(g, component) && (!this->alive[i] || this->allowed(i, component, choice));
      });
  }

 private:
  METHOD void play() {
    if (this->active_) ++this->time;
    Rules::step();
    if (Rules::agents_leave)
      this->each_own(this->agents, [&](int i) {
        if (!this->alive[i]) this->reward[i] = 0.0f;
      });
    // The barrier of this reduction is what account relies on: its sums read rewards that other lanes have cleared.
    // Where phases are launches, these sums can wait (kernels_phased.cuh).
    const bool some_stay = this->any(this->agents, [&](int i) { return !this->terminated[i]; });
    finished_ = this->active_ && (this->time >= this->arguments_->max_steps || !some_stay);
    if constexpr (!Geometry::phased) this->account(finished_);
  }
};
